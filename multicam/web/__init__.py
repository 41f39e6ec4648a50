"""The web page behind `multicam serve`: three tabs on Gradio, for the bundled models."""
