"""What lies on disk: pictures and videos read and written, paths that stay inside a folder."""
