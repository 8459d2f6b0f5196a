"""The subcommands of `llmparity`: the operations of the plugin without pytest."""
