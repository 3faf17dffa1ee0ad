"""A first training: what lies in a folder, and a recipe for it with a reason beside each choice."""
