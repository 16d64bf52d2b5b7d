"""The revisions of the catalog database, in the order of their numbers. A released one never changes."""
