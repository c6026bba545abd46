// Validates Kubernetes objects from standard input (YAML): their values by the schemas of Kubernetes and of the Prometheus
// operator, their members by TypeScript, which knows those that do not exist. Prints the objects as JSON.
// Run by tests/e2e/packages; the packages are in target/node/node_modules.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const modules = path.resolve(process.argv[2]);
const require = createRequire(path.join(modules, 'x.js'));
const YAML = require('yaml');
const objects = YAML.parseAllDocuments(fs.readFileSync(0, 'utf8')).map((document) => document.toJS()).filter(Boolean);
const work = fs.mkdtempSync(path.join(modules, '..', 'manifests-'));
const mistakes = [];
let lines = '';
for (const [number, object] of objects.entries()) {
  const what = `${object.kind} ${object.metadata?.name}`;
  const place = object.apiVersion === 'v1' ? 'v1' : object.apiVersion;
  const home = place.startsWith('monitoring.coreos.com/') ? '@kubernetes-models/prometheus-operator' : 'kubernetes-models';
  const module = await import(pathToFileURL(path.join(modules, home, place, 'index.js')));
  try {
    new module[object.kind](object).validate();
  } catch (error) {
    mistakes.push(`${what}: ${error.message}`);
  }
  lines += `import type { I${object.kind} as T${number} } from '${home}/${place}';\n`;
  lines += `export const o${number}: T${number} = ${JSON.stringify(object, null, 1)};\n`;
}
const source = path.join(work, 'manifests.ts');
fs.writeFileSync(source, lines);
try {
  const compiler = path.join(modules, '.bin', 'tsc');
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'esnext', '--moduleResolution', 'bundler'];
  execFileSync(compiler, [...options, source], { encoding: 'utf8', stdio: 'pipe' });
} catch (error) {
  mistakes.push(error.stdout || error.message);
}
fs.rmSync(work, { recursive: true });
if (mistakes.length > 0) {
  console.error(mistakes.join('\n'));
  process.exit(1);
}
console.log(JSON.stringify(objects));
