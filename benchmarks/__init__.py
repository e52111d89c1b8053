"""Measurements that back the figures of the site."""
