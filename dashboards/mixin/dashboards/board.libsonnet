// Parts that all dashboards share: variables, links and the settings of Grafana.
function(config) {
  local queries = (import 'queries.libsonnet')(config),
  local query(name, label, expr, more={}) = {
    name: name,
    label: label,
    type: 'query',
    datasource: { type: 'prometheus', uid: '${datasource}' },
    query: { query: expr, refId: name },
    regex: '',
    // Refreshed at each change of the time range.
    refresh: 2,
    sort: 1,
    hide: 0,
    options: [],
    skipUrlSync: false,
    multi: false,
    includeAll: false,
  } + more,
  local many = { multi: true, includeAll: true, allValue: '.*', current: { selected: true, text: ['All'], value: ['$__all'] } },
  local named(label, name) = '/%s="(?<value>[^"]+)".*%s="(?<text>[^"]+)"/' % [label, name],

  uid(name): config.dashboardUidPrefix + '-' + name,

  // A table's link to the dashboard of the keys with another value of one variable.
  drillDown(variable, field, keeps=['datasource', 'job', 'instance', 'threshold', 'exporter']): {
    title: 'Keys of ${__value.text}',
    url: '/d/%s?%s&var-%s=${__data.fields.%s}' % [
      $.uid('fleet'),
      std.join('&', ['${%s:queryparam}' % name for name in keeps]),
      variable,
      field,
    ],
    targetBlank: false,
  },
  atlasProject: {
    title: 'Project in Atlas',
    url: config.atlasUrl + '/v2/${__data.fields.project_id}',
    targetBlank: true,
  },
  // A link to the exporter's page, filtered by the key.
  keyPage: { title: "Key on the exporter's page", url: '${exporter}/?q=${__data.fields.api_key_id}#keys', targetBlank: true },

  local process(more) = queries.variable('atlas_ai_keys_exporter_build_info', more),
  variables: {
    datasource: {
      name: 'datasource',
      label: 'Data source',
      type: 'datasource',
      query: 'prometheus',
      regex: config.datasourceFilterRegex,
      current: { selected: true, text: config.datasourceName, value: config.datasourceName },
      refresh: 1,
      hide: 0,
      multi: false,
      includeAll: false,
      options: [],
      skipUrlSync: false,
    },
    job: query('job', 'Job', 'label_values(%s, job)' % process([]), many),
    // With service discovery, each organization is an instance: `up` lists every target.
    instance: query('instance', 'Instance', 'label_values(%s, instance)' % queries.variable('up', ['job=~"$job"']), many),
    org: query('org', 'Organization', 'query_result(group by (org_id, org_name) (%s))' % queries.variable(
      'mongodbatlas_organization_info', ['job=~"$job"', 'instance=~"$instance"']
    ), many { regex: named('org_id', 'org_name') }),
    owner: query('owner', 'Owner', 'query_result(%s)' % queries.noOwner('group by (owner) (%s)' % queries.org('mongodbatlas_project_info')), many {
      regex: '/owner="([^"]+)"/',
    }),
    project: query('project', 'Project', 'query_result(group by (project_id, project_name) (%s))' % queries.owned(
      queries.org('mongodbatlas_project_info')
    ), many { regex: named('project_id', 'project_name') }),
    threshold: query('threshold', 'Threshold', 'label_values(%s, threshold)' % queries.process('mongodbatlas_ai_model_api_keys_idle'), {
      sort: 3,
      local threshold = (import '../util.libsonnet').threshold(config.dashboardThreshold),
      current: { selected: true, text: threshold, value: threshold },
    }),
    exporter: if config.exporterUrl == '' then
      query('exporter', 'Page', 'query_result(label_replace(group by (instance) (%s), "address", "http://$1", "instance", "(.*)"))' % process(['job=~"$job"', 'instance=~"$instance"']), {
        regex: '/address="([^"]+)"/',
        allowCustomValue: true,
      })
    else {
      name: 'exporter',
      label: 'Page',
      type: 'textbox',
      query: config.exporterUrl,
      current: { selected: true, text: config.exporterUrl, value: config.exporterUrl },
      hide: 0,
      options: [self.current],
      skipUrlSync: false,
    },
  },

  local link(title, url, more={}) = {
    title: title,
    type: 'link',
    icon: 'external link',
    url: url,
    tooltip: '',
    targetBlank: true,
    asDropdown: false,
    includeVars: false,
    keepTime: false,
    tags: [],
  } + more,
  local toBoard(title, name) = link(title, '/d/' + $.uid(name), { icon: 'dashboard', targetBlank: false, includeVars: true, keepTime: true }),

  dashboard(name, title, description, from, variables, panels, refresh=config.dashboardRefresh): {
    uid: $.uid(name),
    title: title,
    description: description,
    tags: config.dashboardTags,
    schemaVersion: 42,
    version: 1,
    editable: true,
    graphTooltip: 1,
    timezone: 'browser',
    weekStart: '',
    fiscalYearStartMonth: 0,
    liveNow: false,
    refresh: refresh,
    time: { from: from, to: 'now' },
    timepicker: {},
    preload: false,
    annotations: { list: [] },
    local boards = { Keys: 'fleet', Exporter: 'exporter', Report: 'report' },
    links: [toBoard(other, boards[other]) for other in ['Keys', 'Exporter', 'Report'] if boards[other] != name] + [
      link('Status page', '${exporter}/', { tooltip: 'State of each organization, and every key' }),
      link('Failure modes', '${exporter}/-/docs/failure-modes', { tooltip: 'What is exported when something fails' }),
    ],
    templating: { list: [$.variables[variable] for variable in variables] },
    panels: panels,
  },
}
