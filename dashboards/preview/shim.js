// What Grafana's packages expect of their surroundings.
export let process = { env: { NODE_ENV: "development" }, browser: true, nextTick: (next) => setTimeout(next, 0) };
