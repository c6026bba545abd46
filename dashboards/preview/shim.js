// Globals of Node.js that Grafana's packages expect.
export let process = { env: { NODE_ENV: "development" }, browser: true, nextTick: (next) => setTimeout(next, 0) };
