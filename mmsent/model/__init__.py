"""One encoder per modality, their fusion, and one head per task."""
