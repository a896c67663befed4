"""The page about a run: one HTML file without a script or an address to fetch, figures drawn as inline SVG."""
