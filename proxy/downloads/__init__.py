"""Models of Hugging Face, downloaded into the folder of --models-dir."""
