"""More work than workers: the queue is always longer than the interval of Beat's ticks."""

MODULE = "tests.acceptance.production.shop.effects"


def test_x1_x6_what_is_due_is_found_though_the_queue_never_gets_short(site):
    site.worker()
    site.beat()
    site.web(f"from {MODULE} import start_a_backlog\nstart_a_backlog()")
    site.until("WorkflowExecutionRecord.objects.get(workflow_id='nap').state", "completed")
    site.mark("enough")
    site.until("WorkflowExecutionRecord.objects.exclude(state='completed').count()", 0)
