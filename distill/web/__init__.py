"""Put a student on a web page: one HTML file with the student, its runtime in JavaScript, and a page to try it."""

from distill.web.demo import make_page, serve

__all__ = ["make_page", "serve"]
