"""What a network can be tuned for: one file per task, all behind `Task`."""
