"""Areas over several UTM zones: a map a zone, and all of them as one."""
