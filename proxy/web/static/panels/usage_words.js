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
    limit: (used, most, quantity, period, is_budget) => {
      const things = { requests: "requests", prompt_tokens: "prompt tokens", tokens: "tokens", money: "of money", slot_seconds: "of slots" };
      const slides = { minute: "a minute", hour: "an hour", day: "a day", month: "in 30 days" };
      const calendar = { day: "today", week: "this week", month: "this month", year: "this year", "": "in all" };
      return `${used} of ${most} ${things[quantity]} ${(is_budget ? calendar : slides)[period]}`;
    },
    of_model: (limit, model) => `${limit} of ${model}`,
    level: { key: "This key", team: "The team", user: "The user" },
    warns: "more is allowed, with a warning",
    free_again: (time) => `all of it free again in ${time}`,
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
    limit: (used, most, quantity, period, is_budget) => {
      const things = { requests: "个请求", prompt_tokens: "提示词元", tokens: "词元", money: "金额", slot_seconds: "槽位时间" };
      const slides = { minute: "每分钟", hour: "每小时", day: "每天", month: "每 30 天" };
      const calendar = { day: "今天", week: "本周", month: "本月", year: "今年", "": "总计" };
      return `${(is_budget ? calendar : slides)[period]}已用 ${used} / ${most} ${things[quantity]}`;
    },
    of_model: (limit, model) => `${model}：${limit}`,
    level: { key: "此密钥", team: "团队", user: "用户" },
    warns: "超出后仅预警",
    free_again: (time) => `${time}后全部恢复`,
    tokens_of: (name) => `词元：${name}`,
    tokens: "词元",
    plot_note: (name, days, value) => `${name}，最近 ${days} 天；今天 ${value}`,
  },
};

export const words = WORDS[document.documentElement.lang.startsWith("zh") ? "zh" : "en"];
