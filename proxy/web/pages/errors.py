"""A page for each error, in both languages, for who looks with a browser.

What asks with `Accept: application/json`, `*/*` or nothing, as every API client does, gets the
error object of its dialect.
"""

from __future__ import annotations

from typing import NamedTuple

from flask import Response, make_response, render_template, request

from ...errors import GatewayError
from ..services import services
from . import policy, session


class Said(NamedTuple):
    """What has happened, and what can be done about it."""

    title: str
    advice: str


class Words(NamedTuple):
    en: Said
    zh: Said


WORDS: dict[int, Words] = {
    400: Words(
        Said("That was not understood", "Go back and check what was entered."),
        Said("无法理解该请求", "请返回并检查输入的内容。"),
    ),
    401: Words(
        Said("Please sign in", "This page is for those who hold an API key."),
        Said("请先登录", "此页面需要 API 密钥才能访问。"),
    ),
    403: Words(
        Said("That is not allowed", "Reload the page and try again, or sign in with another key."),
        Said("没有权限", "请刷新页面后重试，或使用其他密钥登录。"),
    ),
    404: Words(
        Said("There is nothing here", "The address may be mistyped, or what it led to is gone."),
        Said("页面不存在", "地址可能有误，或者内容已被删除。"),
    ),
    405: Words(
        Said("This address does not work that way", "Open it from the page it belongs to."),
        Said("不支持这种访问方式", "请从相应的页面打开。"),
    ),
    413: Words(
        Said("That is too large", "Send a smaller file, or several smaller ones."),
        Said("内容过大", "请发送较小的文件，或分成几个较小的文件。"),
    ),
    429: Words(
        Said("Too many are waiting", "The queue is full. Try again in a moment."),
        Said("排队人数过多", "队列已满，请稍后再试。"),
    ),
    500: Words(
        Said("Something broke here", "It has been written to the log. Try again."),
        Said("服务器内部错误", "错误已记入日志，请重试。"),
    ),
    502: Words(
        Said("The model server answered badly", "Try again; the status page shows how it is."),
        Said("模型服务器返回异常", "请重试；可在状态页查看其运行情况。"),
    ),
    503: Words(
        Said("No model is ready", "It may still be loading. The status page shows how it is."),
        Said("没有可用的模型", "模型可能仍在加载，可在状态页查看。"),
    ),
    504: Words(
        Said("The model server took too long", "Try again, or ask for a shorter answer."),
        Said("模型服务器响应超时", "请重试，或要求更短的回答。"),
    ),
}


def words(status: int) -> Words:
    """Those of a status; of its hundred where it has none of its own."""
    return WORDS.get(status) or WORDS[400 if status < 500 else 500]


def wanted() -> bool:
    """Whether the current request is one of a browser that goes to a page, and there are pages."""
    accepted = request.accept_mimetypes
    return (
        services().settings.pages
        and accepted.best_match(("application/json", "text/html")) == "text/html"
    )


def page(fault: GatewayError) -> Response:
    """The page of an error."""
    said = words(fault.status)
    text = render_template("error.html", status=fault.status, said=said, detail=fault.message)
    response = make_response(text, fault.status)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return session.keep(policy.keep(response))
