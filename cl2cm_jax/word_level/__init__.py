"""What the teacher's word level is worth, on parallel text alone: no pictures, no student."""
