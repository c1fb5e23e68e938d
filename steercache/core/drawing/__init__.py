"""Small pictures as SVG text, written by hand: for notebooks and pages, without a plotting library."""
