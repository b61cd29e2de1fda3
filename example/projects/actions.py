"""Side effects of workflows as named actions."""

from django.core.mail import send_mail

from general_manager.workflow import ActionRegistry

actions = ActionRegistry()


@actions.action("send_email")
def send_email(*, to: str, subject: str, text: str) -> dict[str, object]:
    sent = send_mail(subject, text, None, [to])
    return {"sent": bool(sent), "to": to, "subject": subject}
