"""Error pages for browsers, in English and Chinese.

Requests with `Accept: application/json`, `*/*` or no Accept header, as API clients send them, get
the error object of their dialect.
"""

from __future__ import annotations

from typing import NamedTuple

from flask import Response, make_response, render_template, request

from ...errors import GatewayError
from ..services import current_services
from . import policy, session


class ErrorText(NamedTuple):
    """What happened, and what the reader can do about it."""

    title: str
    advice: str


class Words(NamedTuple):
    en: ErrorText
    zh: ErrorText


WORDS: dict[int, Words] = {
    400: Words(
        ErrorText("Invalid request", "Go back and check your input."),
        ErrorText("无法理解该请求", "请返回并检查输入的内容。"),
    ),
    401: Words(
        ErrorText("Please sign in", "You need an API key to view this page."),
        ErrorText("请先登录", "此页面需要 API 密钥才能访问。"),
    ),
    403: Words(
        ErrorText(
            "Access denied", "Reload the page and try again, or sign in with a different key."
        ),
        ErrorText("没有权限", "请刷新页面后重试，或使用其他密钥登录。"),
    ),
    404: Words(
        ErrorText("Page not found", "Check the address. The content may have been deleted."),
        ErrorText("页面不存在", "地址可能有误，或者内容已被删除。"),
    ),
    405: Words(
        ErrorText("Method not allowed", "Go back and use the links or buttons on the page."),
        ErrorText("不支持这种访问方式", "请从相应的页面打开。"),
    ),
    413: Words(
        ErrorText("Too large", "Upload a smaller file, or split it into several."),
        ErrorText("内容过大", "请发送较小的文件，或分成几个较小的文件。"),
    ),
    429: Words(
        ErrorText("Too many requests", "The queue is full. Try again in a moment."),
        ErrorText("排队的请求过多", "队列已满，请稍后再试。"),
    ),
    500: Words(
        ErrorText("Something went wrong", "The error has been logged. Try again."),
        ErrorText("服务器内部错误", "错误已记入日志，请重试。"),
    ),
    502: Words(
        ErrorText("Bad response from the model server", "Try again, or check the status page."),
        ErrorText("模型服务器返回异常", "请重试；可在状态页查看其运行情况。"),
    ),
    503: Words(
        ErrorText("No model is ready", "It may still be loading. See the status page."),
        ErrorText("没有可用的模型", "模型可能仍在加载，可在状态页查看。"),
    ),
    504: Words(
        ErrorText("The model server took too long", "Try again, or ask for a shorter answer."),
        ErrorText("模型服务器响应超时", "请重试，或要求更短的回答。"),
    ),
}


def words(status: int) -> Words:
    """Return the texts for a status, or for its class if it has none of its own."""
    return WORDS.get(status) or WORDS[400 if status < 500 else 500]


def wants_page() -> bool:
    """Whether the current request is a browser's navigation to a page, and pages are enabled."""
    accepted = request.accept_mimetypes
    return (
        current_services().settings.pages
        and accepted.best_match(("application/json", "text/html")) == "text/html"
    )


def page(fault: GatewayError) -> Response:
    """Return the page of an error."""
    said = words(fault.status)
    text = render_template("error.html", status=fault.status, said=said, detail=fault.message)
    response = make_response(text, fault.status)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return session.keep(policy.keep(response))
