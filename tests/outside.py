"""Dotted paths that lead out of the project, each another way."""

OUTSIDE = [
    "subprocess.check_call",
    "this.s",  # importing it prints a poem
    "os.path.join",
    "builtins.eval",
    "tests.testapp.flows.connection.cursor",  # through what a module imported
    "tests.testapp.flows.timedelta",
    "tests.testapp.models.models.Model",
    "tests.outside",  # a module
    "celery.current_app.send_task",
]
