"""Tasks on the detector that find a part of every object: masks, and keypoints."""
