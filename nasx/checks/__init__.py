"""What is wrong with a configuration or a command line, said before anything is started."""
