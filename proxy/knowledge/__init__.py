"""Knowledge bases: documents read, split, indexed and found again."""
