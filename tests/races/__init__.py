"""Races: one story per test."""
