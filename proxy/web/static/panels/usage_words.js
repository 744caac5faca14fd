// The texts of the usage page in the page's language.

const WORDS = {
  en: {
    loading: "Loading …",
    failed: "The usage could not be loaded. Reload the page to try again.",
    requests: "Requests",
    failures: (n) => `${n} failed`,
    prompt: "Prompt tokens",
    saved: "Prompt tokens saved",
    saved_note: (share, time) => `${share}, about ${time} of evaluation`,
    answer: "Answer tokens",
    slots: "Slot time",
    queue: "Queue time",
    tokens_of: (name) => `Tokens: ${name}`,
    tokens: "Tokens",
    plot_note: (name, days, value) => `${name}, the last ${days} days; today ${value}`,
  },
  zh: {
    loading: "正在加载……",
    failed: "无法加载用量，请刷新页面重试。",
    requests: "请求",
    failures: (n) => `${n} 个失败`,
    prompt: "提示词元",
    saved: "节省的提示词元",
    saved_note: (share, time) => `${share}，约合 ${time} 的计算`,
    answer: "回答词元",
    slots: "槽位时间",
    queue: "排队时间",
    tokens_of: (name) => `词元：${name}`,
    tokens: "词元",
    plot_note: (name, days, value) => `${name}，最近 ${days} 天；今天 ${value}`,
  },
};

export const words = WORDS[document.documentElement.lang.startsWith("zh") ? "zh" : "en"];
