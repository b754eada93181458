"""How the built-in model `digits-diffusion` is made: `python -m tests.digits FOLDER`."""
