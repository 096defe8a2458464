// What an agent sees of a MiniWoB++ page, and what it can act on. Arguments: none.
// Returns {utterance, done, reward, busy, items: [{kind, ref, name, state, options}]}; the
// elements with a ref are kept in window.instarRefs, by position.
const skipped = new Set(['reward-display', 'sync-task-cover', 'click-canvas', 'query']);
const tags = {A: 'link', BUTTON: 'button', SELECT: 'list', TEXTAREA: 'textbox'};
const kinds = {checkbox: 'checkbox', radio: 'radio', button: 'button', submit: 'button', reset: 'button'};
const squeeze = text => (text || '').replace(/\s+/g, ' ').trim().slice(0, 200);
const visible = element => {
  const box = element.getBoundingClientRect(), style = getComputedStyle(element);
  return box.width > 0 && box.height > 0 && style.visibility !== 'hidden' && +style.opacity !== 0;
};
const listens = element => {
  if (element.onclick || element.__onclick || element.__onmousedown) return true;
  const events = window.jQuery && jQuery._data && jQuery._data(element, 'events') || {};
  return !!(events.click || events.mousedown);
};
const kindOf = element => {
  if (element.tagName === 'INPUT') return kinds[element.type] || 'textbox';
  if (tags[element.tagName]) return tags[element.tagName];
  if (element.classList.contains('alink')) return 'link';
  return listens(element) ? (element instanceof SVGElement ? 'shape' : 'item') : null;
};
const nameOf = (element, kind) => {
  if (kind === 'textbox' || kind === 'checkbox' || kind === 'radio' || kind === 'list') {
    const label = element.labels && element.labels[0];
    return squeeze(label ? label.textContent : element.placeholder || element.title);
  }
  if (element instanceof SVGElement) {
    const colour = element.getAttribute('fill') || '';
    return squeeze(`${colour} ${element.tagName} ${element.textContent}`);
  }
  return squeeze(element.value || element.textContent || element.title) ||
    squeeze(typeof element.className === 'string' ? element.className : '');
};
const items = [], refs = [];
const walk = element => {
  if (skipped.has(element.id) || ['SCRIPT', 'STYLE'].includes(element.tagName)) return;
  if (!visible(element)) return;
  const kind = element === document.body ? null : kindOf(element);
  // A list or a panel that listens for its items is no item itself.
  const leaf = kind && (tags[element.tagName] || element.tagName === 'INPUT' ||
    ![...element.querySelectorAll('*')].some(inner => visible(inner) && kindOf(inner)));
  if (leaf) {
    refs.push(element);
    const item = {kind, ref: refs.length, name: nameOf(element, kind), state: '', options: []};
    if (kind === 'checkbox' || kind === 'radio') item.state = element.checked ? 'on' : 'off';
    if (kind === 'textbox') item.state = element.value.slice(0, 200);
    if (kind === 'list') {
      item.options = [...element.options].map(option => squeeze(option.textContent));
      item.state = squeeze((element.selectedOptions[0] || {}).textContent);
    }
    items.push(item);
    return;
  }
  for (const child of element.childNodes) {
    if (child instanceof Text) {
      const text = squeeze(child.data);
      const named = element.tagName === 'LABEL' && element.control && visible(element.control);
      if (text && !named) items.push({kind: 'text', ref: 0, name: text, state: '', options: []});
    } else if (child instanceof Element) walk(child);
  }
};
walk(document.body);
window.instarRefs = refs;
const said = core.getUtterance();
return {
  utterance: typeof said === 'string' ? said : said.utterance,
  done: WOB_DONE_GLOBAL,
  reward: WOB_RAW_REWARD_GLOBAL,
  busy: !WOB_TASK_READY || !!(window.jQuery && jQuery(':animated').length),
  items,
};
