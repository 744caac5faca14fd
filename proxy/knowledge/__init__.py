"""Knowledge bases: read, split, index and search documents."""
