"""The page about a run: one HTML file that fetches nothing and runs nothing, its figures inline SVG."""
