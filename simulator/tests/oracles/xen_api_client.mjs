// Drives the simulated pool with npm's xen-api: a client that this project did not write.
//
// Usage: node xen_api_client.mjs READY.json, with xen-api installed in a folder above.
import { readFileSync } from 'node:fs'
import assert from 'node:assert/strict'
import { createClient } from 'xen-api'

const { xen } = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { username, password } = xen
const xapi = createClient({ url: xen.url, auth: { user: username, password }, allowUnauthorized: true })
await xapi.connect()
await xapi.objectsFetched
const objects = Object.values(xapi.objects.all)
const vm = objects.find(o => o.$type === 'VM' && o.name_label === 'web01')
assert.equal(vm.power_state, 'Running')
console.log('objects', objects.length)

const ref = await xapi.callAsync('VM.snapshot', vm.$ref, 'by the oracle').then(result => result.replace(/<\/?value>/g, ''))
// The barrier passes when the client's own event loop has seen a change made now.
const snapshot = await xapi.barrier(ref)
assert.equal(snapshot.is_a_snapshot, true)
console.log('snapshot', snapshot.uuid)

const vbds = await xapi.call('VM.get_VBDs', ref)
for (const vbd of vbds) {
  const record = await xapi.call('VBD.get_record', vbd)
  if (record.type !== 'Disk') continue
  const task = await xapi.createTask('export by the oracle')
  const response = await xapi.getResource('/export_raw_vdi', { query: { vdi: record.VDI, format: 'vhd' }, task })
  let bytes = 0
  for await (const chunk of response.body ?? response) bytes += chunk.length
  assert.ok(bytes > 1 << 20)
  console.log('export', bytes, 'bytes')
}
await xapi.call('VM.destroy', ref)
await xapi.disconnect()
console.log('done')
process.exit(0)
