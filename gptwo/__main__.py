"""`python -m gptwo` is the `gptwo` command."""

from gptwo.cli.main import main

if __name__ == "__main__":
    main()
