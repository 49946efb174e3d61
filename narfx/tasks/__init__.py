"""Tasks: the data, the loss and the metric for searching, training and evaluating networks."""

from narfx.data.image_data import ImageData, Split, batches, load_data
from narfx.tasks.classification import Classification
from narfx.tasks.faces import FaceOptions, Faces
from narfx.tasks.task import Task

__all__ = ["Classification", "FaceOptions", "Faces", "ImageData", "Split", "Task", "batches", "load_data"]
