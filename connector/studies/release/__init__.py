"""What a release is made of: looked at before it goes out."""
