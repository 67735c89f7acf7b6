"""Scores of predicted joints and measures of resolution drift; nothing here knows of a data set."""
