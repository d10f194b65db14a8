"""What a person looks at: the page of a map and its preview."""
