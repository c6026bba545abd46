// Draws a dashboard of this repository with Grafana's components and the data of a Prometheus. For development only:
// page.html?dashboard=fleet&mode=light&prometheus=http://127.0.0.1:9090&minutes=5
import React, { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import {
  FieldConfigOptionsRegistry,
  FieldType,
  applyFieldOverrides,
  cacheFieldDisplayNames,
  createTheme,
  dateTime,
  displayNameOverrideProcessor,
  getDisplayProcessor,
  getFieldDisplayName,
  getValueFormat,
  identityOverrideProcessor,
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
} from "@grafana/data";
import { initPluginTranslations } from "@grafana/i18n";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries } from "@grafana/ui";
import { TableNG } from "@grafana/ui/unstable";
import exporter from "../exporter.json";
import fleet from "../fleet.json";
import report from "../report.json";

const parameters = new URLSearchParams(location.search);
const board = { fleet, exporter, report }[parameters.get("dashboard") ?? "fleet"];
const prometheus = parameters.get("prometheus") ?? "http://127.0.0.1:9090";
const minutes = Number(parameters.get("minutes") ?? 5);
const theme = createTheme({ colors: { mode: parameters.get("mode") ?? "light" } });
const [ROW, GAP, WIDTH] = [30, 8, 1600];
// All queries use the same time, so that their results can be joined.
const now = Date.now() / 1000;

/** A property of a field, which overrides of the dashboards can set. */
const property = (path, custom) => ({
  id: custom ? `custom.${path}` : path,
  path,
  name: path,
  isCustom: custom,
  override: () => null,
  editor: () => null,
  process: path === "displayName" ? displayNameOverrideProcessor : identityOverrideProcessor,
  shouldApply: () => true,
  settings: {},
});
const registry = new FieldConfigOptionsRegistry(() => [
  ...["displayName", "unit", "min", "max", "decimals", "noValue", "thresholds", "mappings", "links", "color"].map((path) => property(path, false)),
  ...["width", "align", "cellOptions", "inspect", "filterable", "drawStyle", "lineWidth", "fillOpacity", "showPoints", "spanNulls", "stacking",
    "thresholdsStyle", "axisPlacement", "axisSoftMin", "axisSoftMax", "lineInterpolation", "gradientMode", "hideFrom.viz"].map((path) => property(path, true)),
]);
standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer, standardTransformers.filterFieldsTransformer,
    standardTransformers.filterFieldsByNameTransformer, standardTransformers.orderFieldsTransformer, standardTransformers.renameFieldsTransformer]
    .map((transformation) => ({ id: transformation.id, name: transformation.name, transformation: async () => transformation, editor: () => null })),
);

// All values of each variable are selected; the threshold has its default. The demo is so fast that one minute shows the changes of an
// hour, and one bar the changes of 20 seconds.
const threshold = board.templating.list.find((variable) => variable.name === "threshold")?.current.value;
const interpolate = (text) =>
  text
    .replace(/\$threshold\b/g, threshold)
    .replace(/\$(job|instance|org|owner|project)\b/g, ".*")
    .replace(/\$__range\b/g, `${minutes}m`)
    .replace(/\$__(rate_)?interval\b/g, "20s")
    .replace(/\[1h\]/g, "[1m]")
    .replace(/:1h\]/g, ":1m]");

const fetchResult = async (path, query) => {
  const response = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(query)}`);
  const { data, error } = await response.json();
  if (error) {
    throw new Error(error);
  }
  return data.result;
};

/** Returns the name of a series. */
const legend = (target, labels) => {
  if (target.legendFormat !== "__auto") {
    return target.legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => labels[label] ?? "");
  }
  const names = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return names.length ? `{${names.join(", ")}}` : "Value";
};

/** Returns the frames that Grafana's Prometheus data source creates from a response. */
const frames = async (target, many, isBars) => {
  const query = interpolate(target.expr);
  if (target.format === "table") {
    const rows = await fetchResult("query", { query, time: now });
    const labels = [...new Set(rows.flatMap((row) => Object.keys(row.metric)))].sort();
    const name = many ? `Value #${target.refId}` : "Value";
    return [toDataFrame({
      refId: target.refId,
      fields: [
        { name: "Time", type: FieldType.time, values: rows.map((row) => row.value[0] * 1000) },
        ...labels.map((label) => ({ name: label, type: FieldType.string, values: rows.map((row) => row.metric[label] ?? "") })),
        { name, type: FieldType.number, values: rows.map((row) => Number(row.value[1])) },
      ],
    })];
  }
  const step = isBars ? 20 : Math.max(1, Math.round((minutes * 60) / 300));
  const range = { query, start: now - minutes * 60, end: now, step };
  const series = target.instant ? await fetchResult("query", { query, time: now }) : await fetchResult("query_range", range);
  return series.map(({ metric, value, values = [value] }) => toDataFrame({
    refId: target.refId,
    fields: [
      { name: "Time", type: FieldType.time, values: values.map(([at]) => at * 1000), config: {} },
      { name: "Value", type: FieldType.number, labels: metric, values: values.map(([, number]) => (number === "NaN" ? null : Number(number))), config: { displayNameFromDS: legend(target, metric) } },
    ],
  }));
};

const transformed = (panel, data) =>
  new Promise((done) => transformDataFrame(panel.transformations ?? [], data, { interpolate: (text) => text }).subscribe(done));

const load = async (panel) => {
  const all = await Promise.all(panel.targets.map((target) => frames(target, panel.targets.length > 1, panel.interval)));
  const data = await transformed(panel, all.flat());
  const drawn = applyFieldOverrides({
    data,
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: registry,
    replaceVariables: (text) => text,
    theme,
    timeZone: "utc",
  });
  cacheFieldDisplayNames(drawn);
  return drawn;
};

const last = (field) => field.values[field.values.length - 1];
const numbers = (data) => data.flatMap((frame) => frame.fields.filter((field) => field.type === FieldType.number).map((field) => ({ field, frame })));

const Big = ({ panel, data, width, height }) => {
  const [first] = numbers(data);
  if (!first) {
    const text = panel.fieldConfig.defaults.noValue ?? "No data";
    return <BigValue theme={theme} width={width} height={height} value={{ text, numeric: NaN }} graphMode="none" colorMode="value" />;
  }
  const display = first.field.display ?? getDisplayProcessor({ field: first.field, theme });
  const value = display(last(first.field));
  return <BigValue theme={theme} width={width} height={height} value={{ ...value, title: undefined }} graphMode="none" colorMode={panel.options.colorMode} textMode="value" />;
};

const Bars = ({ panel, data, width, height }) => {
  const all = numbers(data);
  const most = Math.max(1, ...all.map(({ field }) => last(field)));
  const each = Math.floor(height / Math.max(1, all.length)) - 6;
  return all.map(({ field, frame }, place) => {
    const config = { ...field.config, min: 0, max: most };
    const display = getDisplayProcessor({ field: { ...field, config }, theme });
    const value = { ...display(last(field)), title: getFieldDisplayName(field, frame, data) };
    return (
      <div key={place} style={{ marginBottom: 6 }}>
        <BarGauge theme={theme} width={width} height={each} field={config} display={display} value={value} orientation="horizontal"
          displayMode={panel.options.displayMode} valueDisplayMode="color" namePlacement="left" showUnfilled itemSpacing={6}
          alignmentFactors={{ title: "Never used for 365d", text: getValueFormat("short")(most).text + "000" }} />
      </div>
    );
  });
};

/** Grafana's text for a panel without data. */
const Empty = ({ panel, height }) => (
  <p style={{ textAlign: "center", paddingTop: height / 2 - 20, color: theme.colors.text.secondary, fontSize: theme.typography.size.lg }}>
    {panel.fieldConfig.defaults.noValue ?? "No data"}
  </p>
);

const Series = ({ panel, data, width, height, range }) => {
  if (!data.length) {
    return <Empty panel={panel} height={height} />;
  }
  return <TimeSeries frames={data} structureRev={1} timeRange={range} timeZone="utc" width={width} height={height} legend={panel.options.legend} options={panel.options} />;
};

const Rows = ({ panel, data, width, height }) => {
  const [frame] = data;
  if (!frame?.length) {
    return <Empty panel={panel} height={height} />;
  }
  return <TableNG data={frame} width={width} height={height} sortBy={panel.options.sortBy} cellHeight={panel.options.cellHeight} fieldConfig={panel.fieldConfig} enableVirtualization={false} contentAwareWidthsEnabled={false} />;
};

const KINDS = { stat: Big, bargauge: Bars, timeseries: Series, table: Rows };

const Panel = ({ panel, data, range }) => {
  const { x, y, w, h } = panel.gridPos;
  const column = (WIDTH + GAP) / 24;
  const [width, height] = [w * column - GAP, h * (ROW + GAP) - GAP];
  const Kind = KINDS[panel.type];
  return (
    <div style={{ position: "absolute", left: x * column, top: y * (ROW + GAP), width, height }}>
      <PanelChrome title={interpolate(panel.title)} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => <Kind panel={panel} data={data} width={innerWidth} height={innerHeight} range={range} />}
      </PanelChrome>
    </div>
  );
};

const Dashboard = () => {
  const [panels, setPanels] = useState();
  useEffect(() => {
    Promise.all(board.panels.map(async (panel) => ({ panel, data: await load(panel) }))).then(setPanels);
  }, []);
  if (!panels) {
    return null;
  }
  const to = dateTime();
  const from = dateTime(to).subtract(minutes, "minutes");
  const range = { from, to, raw: { from, to } };
  const height = Math.max(...board.panels.map((panel) => (panel.gridPos.y + panel.gridPos.h) * (ROW + GAP)));
  return (
    <div style={{ padding: 12, background: theme.colors.background.canvas, width: WIDTH + 24 }}>
      <h1 style={{ fontSize: 20, margin: "0 0 10px" }}>{board.title}</h1>
      <div id="drawn" style={{ position: "relative", width: WIDTH, height }}>
        {panels.map(({ panel, data }) => <Panel key={panel.id} panel={panel} data={data} range={range} />)}
      </div>
    </div>
  );
};

initPluginTranslations("preview").then(() => {
  document.body.style.background = theme.colors.background.canvas;
  createRoot(document.getElementById("root")).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Dashboard />
    </ThemeContext.Provider>,
  );
});
