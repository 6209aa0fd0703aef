"""The command line: wire and call. A file a group, commands of a few lines; stdout is data, stderr is talk."""
