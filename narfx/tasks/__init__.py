"""Tasks: the data, the loss and the metric that a network is searched, trained and judged by. No graph is seen here."""

from narfx.data.image_data import ImageData, Split, batches, load_data
from narfx.tasks.classification import Classification
from narfx.tasks.faces import FaceOptions, Faces
from narfx.tasks.task import Task

__all__ = ["Classification", "FaceOptions", "Faces", "ImageData", "Split", "Task", "batches", "load_data"]
