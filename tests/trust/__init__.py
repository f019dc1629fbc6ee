"""What users may rely on, whatever happens to their machine and their files."""
