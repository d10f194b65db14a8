"""From an area and dates to scenes: catalogues asked, items checked, copies told apart."""
