/** What the portal says, in both languages; a missing or superfluous entry is a type error. */

const en = {
  login: "Log in",
  logout: "Log out",
  token: "Token",
  tokenHint: "The administrator's token stands in admin.kubeconfig; `nanoctl token create` makes one for a user.",
  wrongToken: "This token is not known here, or not any more.",
  serverAway: "The server cannot be reached. The page goes on trying.",
  sessionOver: "Your session is over. Log in again to go on.",
  instances: "Instances",
  name: "Name",
  namespace: "Namespace",
  phase: "Phase",
  host: "Host",
  addresses: "Addresses",
  cores: "Cores",
  memory: "Memory",
  console: "Console",
  filter: "Filter by name, host or address",
  none: "No instance is here yet. `nanoctl run web-1 --image shared/mini` makes the first.",
  noneMatch: "No instance matches the filter.",
  clearFilter: "Clear filter",
  loading: "Loading",
  live: "Live",
  reconnecting: "Reconnecting",
  count: (shown: number, all: number) => (shown === all ? "" : `${shown} of `) + (all === 1 ? "1 instance" : `${all} instances`),
  consoleOf: (name: string) => `Console of ${name}`,
  connecting: "Connecting",
  connected: "Connected",
  disconnected: "Disconnected",
  reconnect: "Connect again",
  ctrlAltDel: "Ctrl-Alt-Del",
  fullScreen: "Full screen",
  scale: "Scale to fit",
  paste: "Type the clipboard",
  notRunning: (phase: string) => `The machine is not running (${phase}); the console opens when it does.`,
  noSuch: (name: string) => `There is no instance ${name}, or you may not see it.`,
  denied: "You may not use this console any more, or somebody has reset it.",
  idle: "Nobody has typed for a long time, so the console was closed.",
  language: "中文",
  error: "Something went wrong",
  retry: "Try again",
  back: "Back to the list",
};

type Words = { [K in keyof typeof en]: (typeof en)[K] extends string ? string : (typeof en)[K] };

const zh: Words = {
  login: "登录",
  logout: "退出",
  token: "令牌",
  tokenHint: "管理员令牌在 admin.kubeconfig 中；用 `nanoctl token create` 可为用户创建令牌。",
  wrongToken: "该令牌无效或已失效。",
  serverAway: "无法连接服务器，页面会继续重试。",
  sessionOver: "会话已结束，请重新登录后继续。",
  instances: "云主机",
  name: "名称",
  namespace: "命名空间",
  phase: "状态",
  host: "节点",
  addresses: "地址",
  cores: "核",
  memory: "内存",
  console: "控制台",
  filter: "按名称、节点或地址筛选",
  none: "还没有云主机。用 `nanoctl run web-1 --image shared/mini` 创建第一台。",
  noneMatch: "没有符合筛选条件的云主机。",
  clearFilter: "清除筛选",
  loading: "正在加载",
  live: "实时",
  reconnecting: "正在重新连接",
  count: (shown, all) => (shown === all ? `共 ${shown} 台云主机` : `${shown} / ${all} 台云主机`),
  consoleOf: (name) => `${name} 的控制台`,
  connecting: "正在连接",
  connected: "已连接",
  disconnected: "已断开",
  reconnect: "重新连接",
  ctrlAltDel: "Ctrl-Alt-Del",
  fullScreen: "全屏",
  scale: "缩放适应",
  paste: "键入剪贴板内容",
  notRunning: (phase) => `云主机未运行（${phase}）；运行后控制台会自动打开。`,
  noSuch: (name) => `没有云主机 ${name}，或您无权查看。`,
  denied: "您已无权使用此控制台，或控制台已被重置。",
  idle: "长时间没有输入，控制台已关闭。",
  language: "English",
  error: "出错了",
  retry: "重试",
  back: "返回列表",
};

const phases: Record<string, string> = {
  Pending: "等待中", Provisioning: "准备中", Starting: "启动中", Running: "运行中", Stopping: "停止中", Stopped: "已停止",
  Suspended: "已挂起", Migrating: "迁移中", Failed: "失败", Unknown: "未知", Deleting: "删除中",
};

export type Language = "en" | "zh";
const KEY = "nano.language";

/** The language that was chosen here, else the browser's. */
export function language(): Language {
  const kept = localStorage.getItem(KEY);
  if (kept === "en" || kept === "zh") return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** Keep the choice for the next visit. */
export function keep(chosen: Language): void {
  localStorage.setItem(KEY, chosen);
}

export const words: Record<Language, Words> = { en, zh };

/** A phase in the reader's language. */
export function phaseWord(lang: Language, phase: string): string {
  return lang === "zh" ? (phases[phase] ?? phase) : phase;
}
