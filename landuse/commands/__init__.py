"""The bodies of the commands: options to a config, one workflow call, a printed result. No logic."""
