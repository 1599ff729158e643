"""Over HTTP: OpenAI's interface, and the tasks that models are tuned for."""
