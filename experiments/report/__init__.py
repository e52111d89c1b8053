"""What runs found comes in; tables and pictures go out."""
