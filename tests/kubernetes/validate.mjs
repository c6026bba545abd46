// Validates the Kubernetes objects on standard input (YAML) and prints them as JSON. The schemas of Kubernetes and of the
// Prometheus operator check the values; TypeScript rejects unknown fields, which the schemas allow.
// tests/e2e/kubernetes runs this script with the path of node_modules, target/node/node_modules.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = path.resolve(process.argv[2]);
const require = createRequire(path.join(modules, 'x.js'));
const YAML = require('yaml');
// `fs.readFileSync(0)` fails with EAGAIN in Node.js 18, the version of Debian 12, if the input is not there yet.
let input = '';
for await (const chunk of process.stdin.setEncoding('utf8')) {
  input += chunk;
}
const objects = YAML.parseAllDocuments(input).map((document) => document.toJS()).filter(Boolean);
const directory = fs.mkdtempSync(path.join(modules, '..', 'manifests-'));
const errors = [];
let lines = '';
for (const [number, object] of objects.entries()) {
  const title = `${object.kind} ${object.metadata?.name}`;
  const group = object.apiVersion;
  const schemas = group.startsWith('monitoring.coreos.com/') ? '@kubernetes-models/prometheus-operator' : 'kubernetes-models';
  const module = await import(pathToFileURL(path.join(modules, schemas, group, 'index.js')));
  try {
    new module[object.kind](object).validate();
  } catch (error) {
    errors.push(`${title}: ${error.message}`);
  }
  lines += `import type { I${object.kind} as T${number} } from '${schemas}/${group}';\n`;
  lines += `export const o${number}: T${number} = ${JSON.stringify(object, null, 1)};\n`;
}
const source = path.join(directory, 'manifests.ts');
fs.writeFileSync(source, lines);
try {
  const compiler = path.join(modules, '.bin', 'tsc');
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler'];
  execFileSync(compiler, [...options, source], { encoding: 'utf8', stdio: 'pipe' });
} catch (error) {
  errors.push(error.stdout || error.message);
}
fs.rmSync(directory, { recursive: true });
if (errors.length > 0) {
  console.error(errors.join('\n'));
  process.exit(1);
}
console.log(JSON.stringify(objects));
