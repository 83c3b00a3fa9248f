"""Who is there: registries and selectors, and the directory between them."""
