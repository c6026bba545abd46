// Panel types that Grafana 10 to 13 can load.
local datasource = { type: 'prometheus', uid: '${datasource}' };

// Steps of a threshold: the first color, then [value, color] pairs.
local steps(first, pairs=[]) = {
  mode: 'absolute',
  steps: [{ color: first, value: null }] + [{ value: pair[0], color: pair[1] } for pair in pairs],
};

local target(expr, extra={}) = { datasource: datasource, refId: 'A', expr: expr, legendFormat: '__auto' } + extra;

// Sets the ids of a panel's queries: A, B, C…
local numbered(targets) = [targets[i] { refId: std.char(65 + i) } for i in std.range(0, std.length(targets) - 1)];

// Counts are whole numbers with separators; for other units Grafana chooses the number of decimals.
local panel(type, title, description, unit='locale') = {
  type: type,
  title: title,
  description: description,
  datasource: datasource,
  transparent: false,
  fieldConfig: {
    defaults: { unit: unit, [if unit == 'locale' then 'decimals']: 0, mappings: [], thresholds: steps('green'), color: { mode: 'thresholds' } },
    overrides: [],
  },
};

// Sets the properties of a field, selected by the displayed name.
local override(name, properties, matcher='byName') = {
  matcher: { id: matcher, options: name },
  properties: [{ id: id, value: properties[id] } for id in std.objectFields(properties)],
};

local link(title, url) = { title: title, url: url, targetBlank: std.startsWith(url, '$') || std.startsWith(url, 'http') };

{
  steps: steps,
  override: override,
  link: link,
  runbook(alert): link('Runbook ' + alert, '${exporter}/-/docs/runbooks/' + alert),

  range(expr, legend): target(expr, { legendFormat: legend, range: true }),
  instant(expr, legend='__auto'): target(expr, { legendFormat: legend, instant: true, range: false }),
  rows(expr): target(expr, { format: 'table', instant: true, range: false }),

  // One number. `defaults` are the defaults of the field: unit, thresholds, mappings, noValue, links.
  stat(title, description, expr, defaults={}): panel('stat', title, description, std.get(defaults, 'unit', 'locale')) {
    targets: [target(expr, { instant: true, range: false })],
    fieldConfig+: { defaults+: defaults },
    options: {
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
      colorMode: 'value',
      graphMode: 'none',
      justifyMode: 'auto',
      orientation: 'auto',
      textMode: 'value',
      wideLayout: true,
      showPercentChange: false,
      percentChangeColorMode: 'standard',
    },
  },

  // Lines; with `custom` also stacked bars and areas.
  timeseries(title, description, targets, defaults={}, custom={}): panel('timeseries', title, description, std.get(defaults, 'unit', 'locale')) {
    targets: numbered(targets),
    fieldConfig+: { defaults+: {
      min: 0,
      color: { mode: 'palette-classic' },
      custom: {
        drawStyle: 'line',
        lineWidth: 2,
        fillOpacity: 0,
        showPoints: 'never',
        spanNulls: false,
        stacking: { mode: 'none', group: 'A' },
        thresholdsStyle: { mode: 'off' },
        axisPlacement: 'auto',
        axisSoftMin: 0,
        lineInterpolation: 'linear',
        gradientMode: 'none',
      } + custom,
    } + defaults },
    options: {
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] },
      tooltip: { mode: 'multi', sort: 'desc' },
    },
  },
  area: { lineWidth: 1, fillOpacity: 30, stacking: { mode: 'normal', group: 'A' } },
  bars: { drawStyle: 'bars', lineWidth: 1, fillOpacity: 70, stacking: { mode: 'normal', group: 'A' } },

  bargauge(title, description, targets, defaults={}): panel('bargauge', title, description) {
    targets: numbered(targets),
    fieldConfig+: { defaults+: { min: 0 } + defaults },
    options: {
      orientation: 'horizontal',
      displayMode: 'gradient',
      valueMode: 'color',
      namePlacement: 'left',
      showUnfilled: true,
      sizing: 'auto',
      minVizWidth: 8,
      minVizHeight: 16,
      maxVizHeight: 300,
      legend: { calcs: [], displayMode: 'list', placement: 'bottom', showLegend: false },
      reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false },
    },
  },

  // A table of the queries' results, joined on their common labels. `columns` are [field, title, properties] in display order;
  // other fields are removed. Links can read hidden columns: Grafana up to 12.1 hides a column by `custom.hidden`, later
  // versions by `custom.hideFrom.viz`.
  table(title, description, empty, targets, columns, sort=[]): panel('table', title, description) {
    local queries = numbered(targets),
    targets: queries,
    transformations: [
      { id: 'merge', options: {} },
      { id: 'organize', options: {
        local shown = [column[0] for column in columns],
        excludeByName: {
          [name]: true
          for name in ['Time'] + (if std.length(queries) == 1 then ['Value'] else ['Value #' + query.refId for query in queries])
          if !std.member(shown, name)
        },
        indexByName: { [columns[i][0]]: i for i in std.range(0, std.length(columns) - 1) },
        renameByName: { [column[0]]: column[1] for column in columns },
      } },
    ],
    fieldConfig+: {
      defaults+: {
        // The text for a table without rows. Empty cells do not show the text.
        noValue: empty,
        custom: { align: 'auto', cellOptions: { type: 'auto' }, filterable: false, inspect: false },
      },
      overrides: [override('.*', { noValue: '' }, 'byRegexp')] +
                 [override(column[1], column[2]) for column in columns if std.length(column) > 2],
    },
    options: {
      showHeader: true,
      cellHeight: 'sm',
      sortBy: [{ displayName: std.lstripChars(name, '-'), desc: std.startsWith(name, '-') } for name in sort],
    },
  },
  hidden: { 'custom.hidden': true, 'custom.hideFrom.viz': true },
  count(width): { 'custom.width': width, 'custom.align': 'right' },
  date(width): { unit: 'time:YYYY-MM-DD', 'custom.width': width },
  days(width): { unit: 'suffix:days', 'custom.width': width, 'custom.align': 'right' },

  // Places rows of panels: each row is [height, [width, panel]…].
  layout(rows): std.mapWithIndex(function(i, it) it { id: i + 1 }, std.flattenArrays([
    local above = std.foldl(function(sum, before) sum + before[0], rows[:y], 0);
    local row = rows[y];
    [
      row[1][x][1] {
        gridPos: { x: std.foldl(function(sum, left) sum + left[0], row[1][:x], 0), y: above, w: row[1][x][0], h: row[0] },
      }
      for x in std.range(0, std.length(row[1]) - 1)
    ]
    for y in std.range(0, std.length(rows) - 1)
  ])),
}
