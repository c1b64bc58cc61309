"""Measuring policies: episodes, intervals, videos, reports, and the files that results are kept in."""
