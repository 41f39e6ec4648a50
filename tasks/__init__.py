"""Task adapters: from an image to a model's inputs, and from a name to a target.

Each task is one module with a final class that keeps to `multicam.tasks.base.Task`.
"""
