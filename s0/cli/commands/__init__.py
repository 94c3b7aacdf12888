"""The subcommands of `s0`, one module each: `main(argv, program) -> exit code`."""
