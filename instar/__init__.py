"""Scientific images to a trained, evaluated, explained and exported model, with nothing lost on the way."""

__version__ = "0.1.0"
