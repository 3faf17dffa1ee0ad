"""What lies on disk: pictures, animations and videos read and written, and paths that stay inside a folder."""
